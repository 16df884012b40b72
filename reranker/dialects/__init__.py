"""Wire dialects, one file each: request -> domain, ranking -> response. No logic but translation."""
