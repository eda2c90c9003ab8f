from privacy.deidentify.commands import app

app()
