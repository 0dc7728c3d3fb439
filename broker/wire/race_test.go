//go:build race

package wire

const raceEnabled = true // memory is not what it is otherwise
