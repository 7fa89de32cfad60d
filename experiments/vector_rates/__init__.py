"""At which rate ten random vectors learn, on built-in models and on SmolLM2."""
