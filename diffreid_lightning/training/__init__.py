"""BatchStore of a training that no stage owns: resumable schedules, checks of weights and of restored states."""
