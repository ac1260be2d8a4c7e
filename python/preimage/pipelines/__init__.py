"""What the commands do: images in, files and pictures out, every write atomic."""
