package podcni

func checkNetworkName(name string) error   { return nil }
func checkInterfaceName(name string) error { return nil }
func checkContainerID(id string) error     { return nil }
