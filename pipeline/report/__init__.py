"""What a person hears and sees of a job: the listening page and the pictures of a comparison."""
