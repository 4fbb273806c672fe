"""Pages for people: one HTML file each that needs no network, with its pictures inside, made of data and a template."""
