"""Build the embedded material from nothing: render MiniPerson, train tiny-sd and the attribute reader."""
