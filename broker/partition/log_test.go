package partition

import (
	"log/slog"
	"os"
)

// testLog is silent unless FIRN_TEST_LOG is set.
var testLog = func() *slog.Logger {
	if os.Getenv("FIRN_TEST_LOG") != "" {
		return slog.Default()
	}
	return slog.New(slog.DiscardHandler)
}()
