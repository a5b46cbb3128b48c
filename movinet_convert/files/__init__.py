"""Opening files that anyone may have written, and writing files so that none is ever half there."""
