"""Physical plans as data: nodes, what recurs of them, stages, model inputs."""
