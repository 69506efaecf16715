"""Predicts published training runs and compares: `meshwright validate`, prediction intervals, other tools' figures.

* rows: a CSV file of measured configurations, cell by cell
* printed_settings: what a row's words say about its software
* layer_split: layers of each stage where the source does not say
* run_description: from a row to a complete training run
* validation, statistics: predictions, errors, their summary
* peers: the cases that other tools were run on
* residuals, interval: how far measurements lie from predictions
* scatter: the plot
"""
