// Command classpath prints the class path of the Apache Kafka that package
// kafka fetches, for scripts that run one of its Java programs.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/firnlog/firn/test/kafka"
)

func main() {
	cp, err := kafka.ClassPath(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(cp)
}
