"""What a method saves, measured beside the unpruned model."""
