"""What systems share: embeddings, encoders, heads, masking, generation."""
