"""What tests share: servers that misbehave, invented papers and results, tiny models."""
