"""Other methods of turning features into images, to compare inverters with."""
