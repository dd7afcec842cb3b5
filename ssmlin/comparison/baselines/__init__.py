"""What linear attentions are compared with: a file for each library."""
