"""From a catalogue to tokens: the plan, the tasks, and where they run."""
