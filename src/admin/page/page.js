// Of the status page.
