"""``flatmap``: cortical activity on a flat map, in patches."""
