package systemd

import _ "embed"

// WatchName is the file name of the unit that looks after a broker's machine in
// a cloud: notices, and turns to restart or be replaced. Packages do not
// install it, firn machine up does.
const WatchName = "firn-watch.service"

// Watch is the content of that file.
//
//go:embed firn-watch.service
var Watch []byte
