"""One run, a verb a file: build, fit, train, tune, evaluate, predict, acquire; and its exports."""
