"""Fine-tune a converted network, end to end: an example to run and to copy from.

``data`` reads videos as clips, ``step`` computes the gradients of a batch, ``train`` is the loop,
``checkpoint`` makes it resumable, ``shapes`` writes a small data set, ``__main__`` is the command.
"""
