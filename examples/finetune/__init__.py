"""Fine-tuning a converted network, end to end: an example to run and to copy from."""
