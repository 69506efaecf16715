"""Where a rank stands in the plan's meshes, and the process groups that follow: attention's view and the experts'."""
