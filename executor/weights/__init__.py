"""Weights from and to Hugging Face safetensors, whole tensors by Meshwright's names.

Names are those of the cost model's programs: `embedding`, `layers.<i>.<parameter of the layer>`, `final_norm`, `head`;
a multi-token-prediction module's start with `mtp<depth>.`.
"""
