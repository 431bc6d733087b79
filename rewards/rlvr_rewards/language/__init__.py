"""What `truth` and abstention are made of: phrases, words, names and quantities."""
