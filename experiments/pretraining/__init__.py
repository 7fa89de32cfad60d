"""How the built-in backbones are made: recipes, lessons, pretraining and the skills that are measured."""
