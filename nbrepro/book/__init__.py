"""What the book is made of: pages, tables, figures, and the build of the site."""
