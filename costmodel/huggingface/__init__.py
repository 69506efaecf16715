"""Reads Hugging Face `config.json` files: one module for each group of families.

Sizes that make one model differ from another (layers, hidden, heads, vocabulary, widths, experts) must be in the
file, as they are in every published one. Switches and details get the default of the model's configuration class.
Fields that do not change shapes or work are not read.
"""

from meshwright.costmodel.huggingface.families import FAMILIES, read_config, read_config_file

__all__ = ["FAMILIES", "read_config", "read_config_file"]
