package storetest

import "go.uber.org/goleak"

// IgnoreLeaks names the goroutines that live as long as the process and are
// nobody's leak: those of the libraries' init functions, and the thread that
// starts test servers.
func IgnoreLeaks() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"),
		goleak.IgnoreAnyFunction("github.com/firnlog/firn/objectstore/storetest/servers.init.func1.1"),
	}
}
