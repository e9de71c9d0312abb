"""Visible objects with pixels: Secondary Captures for viewers that show images and nothing else."""
