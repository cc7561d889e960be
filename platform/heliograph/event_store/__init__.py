"""What users do while a bundle is served: kept durably, found at once, handed to the next build."""
