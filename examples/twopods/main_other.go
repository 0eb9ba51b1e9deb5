//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "twopods: needs Linux, for its namespaces and plugins")
	os.Exit(1)
}
