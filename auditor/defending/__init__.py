"""What is done with defenses: files, the table of an evaluation, its numbers and doubts, export."""
