"""What every command needs: command lines, files, plots, studies, a page. Same in both folders."""
