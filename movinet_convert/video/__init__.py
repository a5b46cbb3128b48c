"""Videos: decoding, predictions frame by frame, accuracy on a labelled folder."""
