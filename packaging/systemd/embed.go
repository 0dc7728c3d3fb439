// Package systemd is the one unit file of a broker, as text. Packages install
// the file beside this one, and `firn machine up` writes the same bytes; so
// nothing else belongs here, and nothing is filled in: what differs between
// machines is in /etc/firn.
package systemd

import _ "embed"

// BrokerName is the file name of the broker's unit.
const BrokerName = "firn.service"

// Broker is the content of that file.
//
//go:embed firn.service
var Broker []byte
