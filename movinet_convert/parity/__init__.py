"""Comparing a converted network with the official TensorFlow model.

The only package that imports TensorFlow, and only once a comparison begins.
"""
