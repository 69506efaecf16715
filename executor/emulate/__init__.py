"""A part of a plan for more ranks than there are, run on those that there are: its operators' times."""
