"""What the user asks for, by file or by command line, as frozen dataclasses.

model         the configuration itself, its defaults and its limits; everything below the edge sees only this
yaml_document one YAML file as plain data with the place of every key
schema        what a file may say (pydantic), turned into the model
command_line  the same by virtiofsd's options, and what those mean here

schema and yaml_document are imported only where there is a file to read: the daemon starts sooner without.
"""
