"""Small vision-language models that ship with the project, and their training: here the one of drawn scenes."""
