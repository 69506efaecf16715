"""Times the operators of single layers, as they run in the layer, beside what the cost model predicts for them."""
