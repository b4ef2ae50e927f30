"""PostgreSQL: the tables, and the engines that reach them."""
