"""Our four dashboards: is all well, what does one function do, where does the pipeline wait, what do the nodes cost."""
