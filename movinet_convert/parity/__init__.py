"""Comparing a converted network with the official TensorFlow model.

With the TensorFlow exports, the only code that imports TensorFlow, and it does so lazily.
"""
