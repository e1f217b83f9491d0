"""Where findings are shown: HTML pages, the terminal, files for a paper, the record in a repository, and a tracker."""
