"""Encoders as folders of weights for others: format, facts, model card, export."""
