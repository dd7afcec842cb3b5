"""What mechanisms can do, measured: the page of mechanisms, and the words that they can follow."""
