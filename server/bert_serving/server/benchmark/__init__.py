"""``bert-serving-benchmark``: servers and clients as processes of their own; tables and plots of what they found."""
