"""Render MiniPerson and other people; needs the optional extra ``render``."""
