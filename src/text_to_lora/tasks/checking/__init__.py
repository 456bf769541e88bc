"""What speaks for and against tasks before a network is trained on them."""
