"""What `math` is made of: finding answers, comparing them exactly, and computer algebra that can be killed."""
